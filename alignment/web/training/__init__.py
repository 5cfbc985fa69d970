"""The admin page's sections on a run: its data, its form, its figures; and the bake-off."""
