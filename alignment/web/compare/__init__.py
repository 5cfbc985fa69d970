"""The Compare tab: two models side by side, blind, and before and after."""
