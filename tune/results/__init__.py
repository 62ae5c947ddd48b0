"""Who leads by the held-out score, and what the leaders certify on the test split."""
