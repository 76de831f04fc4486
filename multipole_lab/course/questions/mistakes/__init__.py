"""The usual mistakes as data: for each question, a sentence and what somebody who makes that mistake computes."""
