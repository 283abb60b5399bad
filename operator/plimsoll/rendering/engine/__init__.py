"""Engine adapters: all that is peculiar to one inference engine lives in its module; the rest is engine-neutral."""
