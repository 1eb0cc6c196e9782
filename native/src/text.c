/* text.c: building text in a fixed buffer, see text.h. */
#include "text.h"

#include <string.h>

void bp_text_put_bytes(struct bp_text *text, const char *bytes, size_t count)
{
    if (text->length < text->size) {
        size_t room = text->size - text->length;
        memcpy(text->at + text->length, bytes, count < room ? count : room);
    }
    text->length += count;
}

void bp_text_put(struct bp_text *text, const char *string)
{
    bp_text_put_bytes(text, string, strlen(string));
}

static void put_number(struct bp_text *text, uint64_t value, unsigned base, int width)
{
    char digits[24];
    int at = sizeof digits;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
        width--;
    } while (value > 0 || width > 0);
    bp_text_put_bytes(text, digits + at, sizeof digits - (size_t)at);
}

void bp_text_decimal(struct bp_text *text, uint64_t value)
{
    put_number(text, value, 10, 1);
}

void bp_text_hex(struct bp_text *text, uint64_t value)
{
    bp_text_put(text, "0x");
    put_number(text, value, 16, 1);
}

void bp_text_path(char *buffer, size_t size, const char *before, uint64_t number, const char *after)
{
    struct bp_text text = {buffer, size, 0};
    bp_text_put(&text, before);
    bp_text_decimal(&text, number);
    bp_text_put(&text, after);
    bp_text_end(&text);
}

void bp_text_bytes(struct bp_text *text, uint64_t bytes)
{
    static const char *const units[] = {" bytes", " KiB", " MiB", " GiB", " TiB"};
    int unit = 0;
    while (unit < 4 && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    bp_text_decimal(text, bytes);
    bp_text_put(text, units[unit]);
}

void bp_text_time(struct bp_text *text, int64_t ns)
{
    int64_t seconds = ns / 1000000000;
    int64_t days = seconds / 86400;
    int64_t rest = seconds % 86400;
    /* Days since 1970 to a civil date, counting years from March so that a leap day comes last. */
    int64_t shifted = days + 719468;
    int64_t era = shifted / 146097;
    int64_t of_era = shifted % 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t march_month = (5 * of_year + 2) / 153;
    int64_t day = of_year - (153 * march_month + 2) / 5 + 1;
    int64_t month = march_month < 10 ? march_month + 3 : march_month - 9;
    put_number(text, (uint64_t)(year + era * 400 + (month <= 2)), 10, 4);
    bp_text_put(text, "-");
    put_number(text, (uint64_t)month, 10, 2);
    bp_text_put(text, "-");
    put_number(text, (uint64_t)day, 10, 2);
    bp_text_put(text, "T");
    put_number(text, (uint64_t)(rest / 3600), 10, 2);
    bp_text_put(text, ":");
    put_number(text, (uint64_t)(rest / 60 % 60), 10, 2);
    bp_text_put(text, ":");
    put_number(text, (uint64_t)(rest % 60), 10, 2);
    bp_text_put(text, ".");
    put_number(text, (uint64_t)(ns % 1000000000 / 1000), 10, 6);
    bp_text_put(text, "Z");
}

/* Length of the UTF-8 sequence at s, which has room bytes; 0 if it is none. */
static size_t utf8(const unsigned char *s, size_t room)
{
    size_t length = s[0] < 0x80                             ? 1
                    : (s[0] & 0xE0) == 0xC0 && s[0] >= 0xC2 ? 2
                    : (s[0] & 0xF0) == 0xE0                 ? 3
                    : (s[0] & 0xF8) == 0xF0 && s[0] <= 0xF4 ? 4
                                                            : 0;
    for (size_t i = 1; i < length; i++) {
        if (i == room || (s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    if (length == 3 && ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F))) {
        return 0; /* too long a form, or half of a surrogate pair */
    }
    if (length == 4 && ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))) {
        return 0;
    }
    return length;
}

static void put_escaped(struct bp_text *text, const char *bytes, size_t count, const char *also)
{
    const unsigned char *s = (const unsigned char *)bytes;
    const unsigned char *end = s + count;
    while (s < end) {
        size_t length = utf8(s, (size_t)(end - s));
        if (length == 0 || *s < 0x20 || *s == 0x7F) {
            bp_text_put(text, "\\u");
            put_number(text, *s, 16, 4);
        } else {
            bp_text_put(text, strchr(also, *s) != NULL ? "\\" : "");
            bp_text_put_bytes(text, (const char *)s, length);
        }
        s += length > 1 ? length : 1;
    }
}

void bp_text_escaped(struct bp_text *text, const char *bytes, size_t count)
{
    put_escaped(text, bytes, count, "");
}

void bp_text_json_bytes(struct bp_text *text, const char *bytes, size_t count)
{
    bp_text_put(text, "\"");
    put_escaped(text, bytes, count, "\"\\");
    bp_text_put(text, "\"");
}

void bp_text_json(struct bp_text *text, const char *string)
{
    bp_text_json_bytes(text, string, strlen(string));
}

size_t bp_text_end(struct bp_text *text)
{
    if (text->size > 0) {
        text->at[text->length < text->size ? text->length : text->size - 1] = 0;
    }
    return text->length;
}
