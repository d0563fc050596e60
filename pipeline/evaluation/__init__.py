"""Between two stages stands a judge: metrics, statistics, cards, gates and the report."""
