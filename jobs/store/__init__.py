"""The results: records, which are files of a run, and the database that is made of them."""
