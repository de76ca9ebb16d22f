"""The Kaputt 2 leaderboard: prediction, zip, validator."""
