/* Where the tests find their files: absolute paths without a slash at the end, for C and C++.
 *
 * They are strings of one object (paths.c), so that all other objects are the same in every clone
 * and a compiler cache serves them all. Never NULL; whether a folder is there is for the test to
 * ask. */
#ifndef PONDER_TESTS_PATHS_PATHS_H_
#define PONDER_TESTS_PATHS_PATHS_H_

#ifdef __cplusplus
extern "C" {
#endif

extern const char kSourceDir[];      /* the root of this source tree */
extern const char kSharedDir[];      /* reference data, beside the source tree: may be absent */
extern const char kCountdownModel[]; /* the shipped model */
extern const char
    kMixtureModel[]; /* a toy DeepSeek-V3 with experts and an MTP layer, of kSharedDir */
extern const char
    kMakeCheckpoint[]; /* the program; "" where it is not built (PONDER_BUILD_TOOLS) */

#ifdef __cplusplus
}
#endif

#endif
