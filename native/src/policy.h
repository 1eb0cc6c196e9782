/* policy.h: what happens after a report: on_fault, and the page diverted or not. All in the handler's manner. */
#ifndef BP_POLICY_H
#define BP_POLICY_H

#include "event.h"
#include "frozen.h"

/* What on_fault says. Leaves the pool. */
void bp_policy_apply(struct bp_event *event);

/* The thread was frozen at this access, and is to go on. */
void bp_policy_thaw(struct bp_event *event, enum bp_frozen_wish wish);

/* The access, tried again, ends on a scratch page. false: it cannot be diverted. */
bool bp_event_divert(struct bp_event *event);

/* Is it the very access that was answered a moment ago? bp_event_remember() says of an answer that it was given. */
bool bp_event_is_repeat(const struct bp_event *event);
void bp_event_remember(const struct bp_event *event);

#endif
