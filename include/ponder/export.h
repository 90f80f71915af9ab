/* export.h - PONDER_EXPORT, the mark of what libponder.so exports. Included by ponder.h. */
#ifndef PONDER_EXPORT_H_
#define PONDER_EXPORT_H_

#if defined(_WIN32)
#if defined(PONDER_BUILDING)
#define PONDER_EXPORT __declspec(dllexport)
#else
#define PONDER_EXPORT __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define PONDER_EXPORT __attribute__((visibility("default")))
#else
#define PONDER_EXPORT
#endif

#endif /* PONDER_EXPORT_H_ */
