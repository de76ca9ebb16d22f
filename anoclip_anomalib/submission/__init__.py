"""Writers and validators of leaderboard formats: MVTec AD 2, Kaputt 2, Hugging Face model cards, VAND few-shot."""
