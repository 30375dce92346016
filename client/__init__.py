"""The hospital's side: reads patients, trains, and gates what leaves."""
