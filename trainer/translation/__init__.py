"""EEG to MEG on paired shards, as a task of the loop: ridge start, validation, baselines, scores,
reports. `trainer/eeg2meg.py` and `trainer/eval_eeg2meg.py` are the commands."""
