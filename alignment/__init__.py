"""From preference dataset to aligned model: training, publishing, reloading, comparing."""
