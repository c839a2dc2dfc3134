from hypothesis import settings

# The same examples every time, and no deadline: a busy machine must not turn a test red.
settings.register_profile("metrics", deadline=None, derandomize=True)
settings.load_profile("metrics")
