"""Attacks on our own training: does the code keep what a run promises to its patients?"""
