"""Why steps are as long as they are, across ranks: who made whom wait, the critical path."""
