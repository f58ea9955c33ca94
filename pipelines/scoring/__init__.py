"""What evaluate, score and features share: the actor pool, inputs, results."""
