"""Results of sweeps: ranking, leaderboard, paired comparisons, tables, reports and figures."""
