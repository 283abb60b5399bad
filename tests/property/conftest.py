"""Properties are claims about answers: how long an example takes on a busy machine is none of them."""

from hypothesis import settings

settings.register_profile("plimsoll", deadline=None)
settings.load_profile("plimsoll")
