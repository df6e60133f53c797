"""`python -m keras_mae COMMAND` is `keras-mae COMMAND`."""

from keras_mae.commands import main

main()
