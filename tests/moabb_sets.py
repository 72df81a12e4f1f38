"""Datasets of MOABB 1.7 that the wide recipe cannot take, whoever tests on them."""

SHORT_TRIALS = {
    "BCIComp2020WalkingERP", "Han2024Fatigue", "Kaneshiro2015", "Nguyen2017_L", "Nguyen2017_S",
    "Nguyen2017_SL", "Nguyen2017_V", "Simoes2020",
}  # fmt: skip
"""Published as trials shorter than the recipe's windows: nothing would come of them."""
LEFT_OUT = SHORT_TRIALS | {
    "BNCI2014_004", "Beetl2021_B", "Dreyer2023A", "Dreyer2023B", "Dreyer2023C",
}  # fmt: skip
