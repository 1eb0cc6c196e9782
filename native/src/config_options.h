/* config_options.h: what BUFPOOL_OPTIONS may say of a pool: the one table of its keys, and the presets. */
#ifndef BP_CONFIG_OPTIONS_H
#define BP_CONFIG_OPTIONS_H

#include "options.h"

/* For a bufpool_config. */
extern const struct bp_option bp_config_options[];
extern const size_t bp_config_options_count;
extern const struct bp_preset bp_config_presets[];
bool bp_config_options_fit(const void *config, const char *key); /* bp_option_set.fits */

/* The variable's text; NULL: not set, or not to be trusted (a set-user-id program). */
const char *bp_options_environment(void);

#endif
