/* Ends the process in order when a mapped file becomes shorter while it is read.

   The system then sends SIGBUS to the thread that reads a page behind the new end. The read cannot go on, and a handler
   of Python would only run after it, so everything that the handler needs is prepared: lines of text, and the modes of
   the terminal. The handler calls async-signal-safe functions only. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "gptoss.h"

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <termios.h>
#include <unistd.h>

/* A mapped file: its addresses, and the line to write if a page of it is lost. */
typedef struct {
    uint64_t start, end;
    const char *line;
} MappedFile;

/* The line and the files belong to the caller, who keeps them. `terminal` is -1, or a terminal to give `modes` to. */
static struct {
    const char *other_line; /* for addresses of no known file */
    const MappedFile *volatile files;
    volatile int64_t count;
    int status;
    int terminal;
    struct termios modes;
} prepared = {.terminal = -1};

static void end_process(int number, siginfo_t *info, void *context) {
    (void)context;
    if (info->si_code <= 0) { /* another process sent it */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    uint64_t address = (uint64_t)(uintptr_t)info->si_addr;
    const char *line = prepared.other_line;
    for (int64_t i = 0; i < prepared.count; i++)
        if (prepared.files[i].start <= address && address < prepared.files[i].end) line = prepared.files[i].line;
    if (prepared.terminal >= 0) tcsetattr(prepared.terminal, TCSANOW, &prepared.modes);
    size_t length = strlen(line);
    while (length > 0) {
        ssize_t written = write(STDERR_FILENO, line, length);
        if (written <= 0) break;
        line += written, length -= (size_t)written;
    }
    _exit(prepared.status);
}

/* Restore these modes of a terminal: the flags for input, output, control and local modes, and control characters. */
EXPORT int gptoss_restore_at_end(int terminal, const int64_t *flags, const uint8_t *characters, int64_t count) {
    struct termios modes;
    if (tcgetattr(terminal, &modes) != 0) return 0;
    modes.c_iflag = (tcflag_t)flags[0], modes.c_oflag = (tcflag_t)flags[1];
    modes.c_cflag = (tcflag_t)flags[2], modes.c_lflag = (tcflag_t)flags[3];
    for (int64_t i = 0; i < count && i < NCCS; i++) modes.c_cc[i] = (cc_t)characters[i];
    prepared.modes = modes;
    prepared.terminal = terminal;
    return 1;
}

/* End the process with `status` and a line on stderr when a page of a file is lost. May be called again. */
EXPORT int gptoss_end_at_lost_page(const char *other_line, const MappedFile *files, int64_t count, int status) {
    prepared.count = 0; /* no handler sees a count of other files */
    prepared.other_line = other_line, prepared.files = files, prepared.status = status;
    prepared.count = count;
    struct sigaction action = {.sa_sigaction = end_process, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGTTOU); /* which tcsetattr sends to a background process */
    return sigaction(SIGBUS, &action, NULL) == 0;
}

#else

EXPORT int gptoss_restore_at_end(int terminal, const int64_t *flags, const uint8_t *characters, int64_t count) {
    (void)terminal, (void)flags, (void)characters, (void)count;
    return 0;
}

EXPORT int gptoss_end_at_lost_page(const char *other_line, const void *files, int64_t count, int status) {
    (void)other_line, (void)files, (void)count, (void)status;
    return 0;
}

#endif
