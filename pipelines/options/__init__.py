"""The options of the commands: words and YAML -> settings. Light to import: no torch, no Ray, no MLflow."""
