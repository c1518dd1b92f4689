/* What native_check.c needs of a C library, on a machine without an operating system. Output goes to Bochs' port 0xE9,
   and "Shutdown" on port 0x8900 ends the emulator. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

int main(void);

static void write_port(uint16_t port, char value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static void write_text(const char *text) {
    while (*text) write_port(0xE9, *text++);
}

__attribute__((section(".text.begin"), noreturn)) void begin(void) {
    __builtin_cpu_init();
    write_text(main() ? "failed\n" : "passed\n");
    for (const char *text = "Shutdown"; *text; text++) write_port(0x8900, *text);
    for (;;) __asm__ volatile("hlt");
}

/* Memory is taken from here on and never returned. */
static uintptr_t heap = 0x1000000;

void *aligned_alloc(size_t alignment, size_t bytes) {
    uintptr_t at = (heap + alignment - 1) / alignment * alignment;
    heap = at + bytes;
    return (void *)at;
}

void *malloc(size_t bytes) { return aligned_alloc(16, bytes); }

void free(void *memory) { (void)memory; }

void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memset(void *to, int value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) ((char *)to)[i] = (char)value;
    return to;
}

int strcmp(const char *a, const char *b) {
    for (; *a && *a == *b; a++, b++) {}
    return (unsigned char)*a - (unsigned char)*b;
}

/* e^x to float32: 2^n times a polynomial of the rest, in double. */
float expf(float x) {
    if (x < -103.0f) return 0;
    if (x > 89.0f) return __builtin_inff(); /* beyond it the loop over n would be long, and of infinity without end */
    double n = __builtin_floor((double)x * 1.4426950408889634 + 0.5), r = (double)x - n * 0.6931471805599453, sum = 1;
    for (int i = 12; i > 0; i--) sum = 1 + sum * r / i;
    for (; n < 0; n++) sum /= 2;
    for (; n > 0; n--) sum *= 2;
    return (float)sum;
}

float fmaxf(float a, float b) { return a > b || b != b ? a : b; }

double floor(double x) {
    double whole = (double)(int64_t)x;
    return whole > x ? whole - 1 : whole;
}

long lrintf(float x) {
    int64_t whole;
    __asm__("cvtss2si %1, %0" : "=r"(whole) : "x"(x));
    return (long)whole;
}

int puts(const char *text) {
    write_text(text), write_text("\n");
    return 0;
}

int putchar(int character) {
    write_port(0xE9, (char)character);
    return character;
}

static void write_integer(int64_t value) {
    char digits[24], *at = digits + sizeof digits - 1;
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
    for (*at = '\0'; rest || !at[0]; rest /= 10) {
        *--at = (char)('0' + rest % 10);
        if (rest < 10) break;
    }
    write_text(value < 0 ? "-" : ""), write_text(at);
}

/* %s, %d and %g, the last in millionths. */
int printf(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    for (; *format; format++) {
        if (*format != '%') {
            write_port(0xE9, *format);
            continue;
        }
        switch (*++format) {
            case 's': write_text(va_arg(arguments, const char *)); break;
            case 'd': write_integer(va_arg(arguments, int)); break;
            default: write_integer((int64_t)(va_arg(arguments, double) * 1e6)), write_text("e-6"); break;
        }
    }
    va_end(arguments);
    return 0;
}
