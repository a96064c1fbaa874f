"""A time of passes that is known: what a schedule does with it does not depend on the machine."""

from atoll.fairness.step_cost import StepCost


class FixedCost(StepCost):
    """8 ms, and one more for each token."""

    def add(self, num_tokens: int, seconds: float) -> None:
        """It is known."""

    def seconds(self, num_tokens: float) -> float:
        return 0.008 + 0.001 * num_tokens
