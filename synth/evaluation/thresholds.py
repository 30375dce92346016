"""Where the verdict draws its lines. All are ours; each has its reason.

DCR and NNDR have none: they do not decide anything (see `resemblance.py`).
"""

MEMBERSHIP_AUC = 0.60
"""Largest AUROC of a membership attack on all patients, a class, or outliers.

Parametric synthesisers stay below .58 on PhysioNet 2019 at any number of rows; KDE-KNN reaches .81
for septic patients with as many rows as patients and .92 with 40,000. A value above the line counts
also where the interval reaches 0.5: whoever releases the rows has to show that they are safe.
"""
TPR_ALL = 0.05
"""Largest share of all patients who are recognised at 1 % false alarms: five times what guessing
finds. An AUROC near 0.5 can hide a few patients who are recognised for certain."""
TPR_GROUP = 0.10
"""The same in a class or among outliers, where a few patients make the share jump."""
RISK = 0.10
"""Largest risk of singling out, linkage or inference, as in the article's examples.

Over all patients: the value, where its interval lies above 0. Of one secret among many: the lower
limit, as of forty intervals one lies above 0 by chance.
"""
LOSS = 0.03
"""Largest loss of AUROC, TSTR against TRTR, that is called small."""
CHANCE = 0.5
"""AUROC of guessing. A cohort is useless where TSTR reaches down to it, TRTR does not, and the two
differ clearly."""
DETECTION = 0.9
"""AUROC from which rows are called easy to tell from patients: no reason against sharing."""
