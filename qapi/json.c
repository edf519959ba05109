/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON values in a byte stream; see include/qapi/json.h.
 *
 * The framer knows just enough of JSON to find where a value ends: strings, numbers, words and
 * brackets. It copies the value into `text` in the form that jansson takes (double quotes, large
 * integers as marked strings) and lets jansson judge the rest. Limits are enforced while copying,
 * so a hostile client cannot make us hold more than QAPI_JSON_MAX_BYTES of text or build a tree of
 * more than QAPI_JSON_MAX_TOKENS nodes.
 *
 * Trust: none. jansson sees no text that is longer or deeper than the limits, and no \u0000.
 */
#include "qapi/json.h"

#include <errno.h>
#include <string.h>

#include "util/error.h"

enum state {
    STATE_BETWEEN, /* between tokens */
    STATE_STRING,
    STATE_ESCAPE,  /* behind a backslash */
    STATE_UNICODE, /* in the four digits of \uXXXX */
    STATE_NUMBER,
    STATE_WORD,
    STATE_RECOVER, /* skipping until a byte that no value contains */
};

struct qapi_json_framer {
    qapi_json_fn fn;
    void *opaque;
    enum state state;
    GString *text;      /* the value so far, as jansson shall see it */
    size_t token_start; /* in text, of the number or word being read */
    unsigned tokens;
    unsigned depth;
    uint8_t brackets[QAPI_JSON_MAX_DEPTH / 8]; /* one bit a level: 1 for '{', 0 for '[' */
    char quote;                                /* of the string being read */
    unsigned digits;                           /* of \uXXXX seen so far */
    unsigned code;                             /* their value */
};

struct qapi_json_framer *qapi_json_framer_new(qapi_json_fn fn, void *opaque)
{
    struct qapi_json_framer *framer = g_new0(struct qapi_json_framer, 1);

    framer->fn = fn;
    framer->opaque = opaque;
    framer->text = g_string_new(NULL);
    return framer;
}

void qapi_json_framer_free(struct qapi_json_framer *framer)
{
    if (framer) {
        g_string_free(framer->text, TRUE);
        g_free(framer);
    }
}

void qapi_json_framer_reset(struct qapi_json_framer *framer)
{
    /* one large message must not hold its memory for ever */
    if (framer->text->allocated_len > 64 * 1024) {
        g_string_free(framer->text, TRUE);
        framer->text = g_string_new(NULL);
    }
    g_string_truncate(framer->text, 0);
    framer->state = STATE_BETWEEN;
    framer->tokens = 0;
    framer->depth = 0;
}

static void G_GNUC_PRINTF(2, 3) fail(struct qapi_json_framer *framer, const char *fmt, ...)
{
    g_autoptr(GError) error = NULL;
    va_list ap;

    va_start(ap, fmt);
    error = g_error_new_valist(FERRY_ERROR, FERRY_ERROR_USER, fmt, ap);
    va_end(ap);
    qapi_json_framer_reset(framer);
    framer->state = STATE_RECOVER;
    framer->fn(framer->opaque, NULL, error);
}

/* The byte cannot be here. */
static void stray(struct qapi_json_framer *framer, unsigned char byte)
{
    if (g_ascii_isprint(byte)) {
        fail(framer, "JSON parse error, stray '%c'", byte);
    } else {
        fail(framer, "JSON parse error, stray byte 0x%02x", byte);
    }
}

static void value_complete(struct qapi_json_framer *framer)
{
    json_error_t json_error;
    json_t *value =
        json_loadb(framer->text->str, framer->text->len,
                   JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &json_error);
    g_autoptr(GError) error = NULL;

    if (!value) {
        error_set(&error, FERRY_ERROR_USER, "JSON parse error, %s", json_error.text);
    }
    qapi_json_framer_reset(framer);
    framer->fn(framer->opaque, value, error);
    json_decref(value);
}

/* A token has ended; at the outermost level that ends the value. */
static void token_complete(struct qapi_json_framer *framer)
{
    framer->state = STATE_BETWEEN;
    if (++framer->tokens > QAPI_JSON_MAX_TOKENS) {
        fail(framer, "JSON token count limit exceeded");
    } else if (!framer->depth) {
        value_complete(framer);
    }
}

/* Integers that jansson cannot hold: up to 2^64-1 as marked strings, larger ones as reals. */
static void number_complete(struct qapi_json_framer *framer)
{
    const char *token = framer->text->str + framer->token_start;
    size_t digits = strspn(token + (*token == '-'), "0123456789");

    if (token[digits + (*token == '-')] == '\0') {
        errno = 0;
        g_ascii_strtoll(token, NULL, 10);
        if (errno == ERANGE) {
            errno = 0;
            g_ascii_strtoull(token, NULL, 10);
            if (errno == ERANGE || *token == '-') {
                g_string_append(framer->text, ".0");
            } else {
                g_string_insert(framer->text, (gssize)framer->token_start, "\"\\u0000");
                g_string_append_c(framer->text, '"');
            }
        }
    }
    token_complete(framer);
}

static void word_complete(struct qapi_json_framer *framer)
{
    const char *token = framer->text->str + framer->token_start;

    if (strcmp(token, "true") && strcmp(token, "false") && strcmp(token, "null")) {
        g_autofree char *word = g_strndup(token, 40);

        fail(framer, "JSON parse error, invalid keyword '%s'", word);
        return;
    }
    token_complete(framer);
}

static void bracket(struct qapi_json_framer *framer, char c)
{
    bool object = c == '{' || c == '}';

    g_string_append_c(framer->text, c);
    if (c == '{' || c == '[') {
        if (framer->depth == QAPI_JSON_MAX_DEPTH) {
            fail(framer, "JSON nesting depth limit exceeded");
            return;
        }
        uint8_t bit = (uint8_t)(1u << framer->depth % 8);
        uint8_t *levels = &framer->brackets[framer->depth / 8];
        *levels = object ? *levels | bit : *levels & (uint8_t)~bit;
        framer->depth++;
    } else {
        if (!framer->depth) {
            fail(framer, "JSON parse error, expecting value");
            return;
        }
        framer->depth--;
        bool opened_object = framer->brackets[framer->depth / 8] >> framer->depth % 8 & 1;
        if (opened_object != object) {
            fail(framer, "JSON parse error, expecting '%c'", opened_object ? '}' : ']');
            return;
        }
    }
    token_complete(framer);
}

static void between(struct qapi_json_framer *framer, unsigned char c)
{
    GString *text = framer->text;

    switch (c) {
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        /* one blank keeps tokens apart; what is outside of values is dropped */
        if (text->len && text->str[text->len - 1] != ' ') {
            g_string_append_c(text, ' ');
        }
        return;
    case '{':
    case '}':
    case '[':
    case ']':
        bracket(framer, (char)c);
        return;
    case ',':
    case ':':
        if (!framer->depth) {
            fail(framer, "JSON parse error, expecting value");
            return;
        }
        g_string_append_c(text, (char)c);
        token_complete(framer);
        return;
    case '"':
    case '\'':
        framer->quote = (char)c;
        framer->state = STATE_STRING;
        g_string_append_c(text, '"');
        return;
    default:
        break;
    }
    if (g_ascii_isdigit(c) || c == '-') {
        framer->state = STATE_NUMBER;
    } else if (g_ascii_islower(c)) {
        framer->state = STATE_WORD;
    } else {
        stray(framer, c);
        return;
    }
    framer->token_start = text->len;
    g_string_append_c(text, (char)c);
}

static void in_string(struct qapi_json_framer *framer, unsigned char c)
{
    if (c == (unsigned char)framer->quote) {
        g_string_append_c(framer->text, '"');
        token_complete(framer);
    } else if (c == '\\') {
        framer->state = STATE_ESCAPE;
    } else if (c == '"') {
        g_string_append(framer->text, "\\\"");
    } else if (c < ' ') {
        fail(framer, "JSON parse error, control character 0x%02x in a string", c);
    } else {
        g_string_append_c(framer->text, (char)c);
    }
}

static void in_escape(struct qapi_json_framer *framer, unsigned char c)
{
    framer->state = STATE_STRING;
    if (c == '\'') {
        g_string_append_c(framer->text, '\'');
    } else if (c == 'u') {
        g_string_append(framer->text, "\\u");
        framer->state = STATE_UNICODE;
        framer->digits = 0;
        framer->code = 0;
    } else if (c && strchr("\"\\/bfnrt", c)) {
        g_string_append_c(framer->text, '\\');
        g_string_append_c(framer->text, (char)c);
    } else {
        fail(framer, "JSON parse error, invalid escape sequence in string");
    }
}

static void in_unicode(struct qapi_json_framer *framer, unsigned char c)
{
    if (!g_ascii_isxdigit(c)) {
        fail(framer, "JSON parse error, invalid escape sequence in string");
        return;
    }
    g_string_append_c(framer->text, (char)c);
    framer->code = framer->code << 4 | (unsigned)g_ascii_xdigit_value((char)c);
    if (++framer->digits < 4) {
        return;
    }
    framer->state = STATE_STRING;
    if (!framer->code) {
        /* C strings cannot hold it, and it marks large integers */
        fail(framer, "JSON parse error, \\u0000 is not supported in a string");
    }
}

/* Bytes that can be in no value, not even inside a string: where reading may safely resume. */
static bool is_boundary(unsigned char c)
{
    return c == '\n' || c == 0xff || (c < ' ' && c != '\t' && c != '\r');
}

static void feed_byte(struct qapi_json_framer *framer, unsigned char c)
{
    if (framer->state == STATE_NUMBER) {
        if (g_ascii_isdigit(c) || (c && strchr("+-.eE", c))) {
            g_string_append_c(framer->text, (char)c);
            return;
        }
        number_complete(framer);
    } else if (framer->state == STATE_WORD) {
        if (g_ascii_isalnum(c) || c == '_') {
            g_string_append_c(framer->text, (char)c);
            return;
        }
        word_complete(framer);
    }
    switch (framer->state) {
    case STATE_BETWEEN:
        between(framer, c);
        break;
    case STATE_STRING:
        in_string(framer, c);
        break;
    case STATE_ESCAPE:
        in_escape(framer, c);
        break;
    case STATE_UNICODE:
        in_unicode(framer, c);
        break;
    default:
        break;
    }
    if (framer->state == STATE_RECOVER && is_boundary(c)) {
        framer->state = STATE_BETWEEN;
    }
}

void qapi_json_framer_feed(struct qapi_json_framer *framer, const void *data, size_t len)
{
    const unsigned char *bytes = data;

    for (size_t i = 0; i < len; i++) {
        if (bytes[i] >= 0xfe && framer->state != STATE_RECOVER) {
            stray(framer, bytes[i]);
        }
        feed_byte(framer, bytes[i]);
        if (framer->text->len > QAPI_JSON_MAX_BYTES) {
            fail(framer, "JSON token size limit exceeded");
        }
    }
}

void qapi_json_framer_finish(struct qapi_json_framer *framer)
{
    qapi_json_framer_feed(framer, " ", 1);
    if (framer->text->len || framer->state == STATE_STRING) {
        fail(framer, "JSON parse error, the text ends within a value");
    }
    qapi_json_framer_reset(framer);
}

struct single {
    json_t *value;
    GError *error;
};

static void single_value(void *opaque, json_t *value, const GError *error)
{
    struct single *single = opaque;

    if (single->error) {
        return;
    }
    if (error) {
        single->error = g_error_copy(error);
    } else if (single->value) {
        error_set(&single->error, FERRY_ERROR_USER,
                  "JSON parse error, text follows behind the value");
    } else {
        single->value = json_incref(value);
    }
}

json_t *qapi_json_parse(const char *text, GError **err)
{
    struct single single = { 0 };
    struct qapi_json_framer *framer = qapi_json_framer_new(single_value, &single);

    qapi_json_framer_feed(framer, text, strlen(text));
    qapi_json_framer_finish(framer);
    qapi_json_framer_free(framer);
    if (!single.error && !single.value) {
        error_set(&single.error, FERRY_ERROR_USER, "JSON parse error, expecting value");
    }
    if (single.error) {
        json_decref(single.value);
        g_propagate_error(err, single.error);
        return NULL;
    }
    return single.value;
}

char *qapi_json_dump(json_t *json, bool pretty)
{
    static const char mark[] = "\"\\u0000";
    g_autofree char *text = NULL;
    char *dump = json_dumps(json, JSON_ENSURE_ASCII | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17) |
                                      (pretty ? JSON_INDENT(4) : 0));
    char *from = dump;
    char *to = dump;
    char *found;

    /* large integers lose their mark and quotes; nothing else contains this sequence */
    while ((found = strstr(from, mark))) {
        char *digits = found + strlen(mark);
        size_t length = strspn(digits, "0123456789");

        memmove(to, from, (size_t)(found - from));
        to += found - from;
        memmove(to, digits, length);
        to += length;
        from = digits + length + 1;
    }
    memmove(to, from, strlen(from) + 1);
    text = g_strdup(dump);
    free(dump);
    return g_steal_pointer(&text);
}

const char *qapi_json_get_string(json_t *json)
{
    const char *text = json_string_value(json);

    /* large integers begin with a NUL; text of others with one inside cannot be used either */
    return text && strlen(text) == json_string_length(json) ? text : NULL;
}

json_t *qapi_json_uint64(uint64_t value)
{
    char text[24] = "";

    if (value <= INT64_MAX) {
        return json_integer((json_int_t)value);
    }
    int length = g_snprintf(text + 1, sizeof(text) - 1, "%" G_GUINT64_FORMAT, value);
    return json_stringn_nocheck(text, (size_t)length + 1);
}

bool qapi_json_get_uint64(json_t *json, uint64_t *value)
{
    if (json_is_integer(json)) {
        *value = (uint64_t)json_integer_value(json);
        return true;
    }
    if (!json_is_string(json) || !json_string_length(json) || json_string_value(json)[0]) {
        return false;
    }
    *value = g_ascii_strtoull(json_string_value(json) + 1, NULL, 10);
    return true;
}
