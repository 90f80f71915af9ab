/* version.h - the version of the headers a program is compiled with. Included by ponder.h.
 *
 * ponder_version() tells the version of the library it runs with. Within one PONDER_ABI_VERSION
 * (the number in libponder.so.N) a library may be newer than the headers, never older.
 */
#ifndef PONDER_VERSION_H_
#define PONDER_VERSION_H_

#define PONDER_VERSION_MAJOR 0
#define PONDER_VERSION_MINOR 1
#define PONDER_VERSION_PATCH 0
#define PONDER_VERSION_STRING "0.1.0"
#define PONDER_ABI_VERSION 0

#endif /* PONDER_VERSION_H_ */
