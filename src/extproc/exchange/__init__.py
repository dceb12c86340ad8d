"""The sans-I/O core: one HTTP exchange is one `Exchange`.

event     what Envoy told us (past tense, with its time)
action    what Envoy shall do next
effect    what a policy needs from outside; the policy yields it, the host performs it and sends the result back
policy    a small object with up to five hooks; the request runs them in order, the response in reverse
facts     what is known of the exchange, one writer a field
draft     the changes that the policies of one phase agree on, before they become an action
record    the immutable summary at the end, from which log, metrics, metadata and cost derive
"""
