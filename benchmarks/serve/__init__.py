"""A stream of requests on a machine whose budget and load change, served with the width that is in time."""
