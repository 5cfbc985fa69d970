"""DPO, ORPO and plain SFT on one dataset: one start, one table."""
