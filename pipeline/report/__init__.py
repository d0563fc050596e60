"""The report of a run, for people: `report.md` and `report.html`, from its cards, logs and manifests and from nothing else."""
