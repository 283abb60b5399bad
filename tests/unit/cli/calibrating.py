"""`plimsoll calibrate` in the tests' own process."""

from click.testing import CliRunner, Result

from plimsoll.cli.main import main
from tests.unit.performance.test_performance_calibration import LLAMA_8B

NAMED = ("--model", LLAMA_8B, "--gpu", "H100-SXM-80GB")


def run(*arguments: object, **environment: str) -> Result:
    """`plimsoll calibrate`."""
    return CliRunner().invoke(main, ["calibrate", *(str(argument) for argument in arguments)], env=environment)
