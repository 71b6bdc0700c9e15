"""The one detector that every trial trains: model, data, training and evaluation, without ray."""
