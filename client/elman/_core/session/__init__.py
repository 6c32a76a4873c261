"""A session: elements pushed, predictions received, and the operations of callers."""
