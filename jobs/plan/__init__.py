"""From a grid file to the cells of a run, all looked up and checked before anything starts."""
