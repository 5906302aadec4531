"""Linearizability: does one order of the operations, within their intervals, explain every answer?"""
