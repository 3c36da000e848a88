"""Studies: what the settings in `engine.study_settings` ask for, computed. One module each, named after its study."""
