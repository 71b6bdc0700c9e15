"""From a study folder to tables, plots and pages that people can trust."""
