"""Many sites on one machine or on a Ray cluster, with the code that is deployed."""
