"""The parts put together, without a screen."""
