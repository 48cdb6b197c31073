"""The lab: `internet.Lab` builds the network, `keeper_client.Units` keeps programs alive in it, `targets` are served.

`topology` and `plan` are the data and the steps; `programs` finds what is not Python.
"""
