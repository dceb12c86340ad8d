"""The roads out of an app: every way past the gateway that `extproc egress verify` tries, and how it judges what came of it.

Nothing here needs more rights than an app has: plain sockets, no raw ones, no packet capture.
"""
