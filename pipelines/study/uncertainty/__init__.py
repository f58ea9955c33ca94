"""`bayes-pfl reproduce uncertainty`: what the spread over prompts, the scores and the thresholds are worth."""
