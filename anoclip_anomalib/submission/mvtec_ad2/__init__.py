"""The MVTec AD 2 leaderboard: layout, prediction, float16 maps, validator, archive, local figures, runtime table."""
