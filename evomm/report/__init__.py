"""Floor 8: what a run says of itself: HTML reports, plots, model cards, licences. Reads the store, and loads no model."""
