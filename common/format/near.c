#include "common/format/near.h"

#define LONGEST 48u

size_t near_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n > LONGEST || m > LONGEST)
        return SIZE_MAX;
    uint8_t row[3][LONGEST + 1]; /* the one before the previous, the previous, this */
    for (size_t j = 0; j <= m; j++)
        row[1][j] = (uint8_t)j;
    for (size_t i = 1; i <= n; i++) {
        row[2][0] = (uint8_t)i;
        for (size_t j = 1; j <= m; j++) {
            size_t d = row[1][j - 1] + (size_t)(a[i - 1] != b[j - 1]);
            d = MIN(d, (size_t)row[1][j] + 1);
            d = MIN(d, (size_t)row[2][j - 1] + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d = MIN(d, (size_t)row[0][j - 2] + 1);
            row[2][j] = (uint8_t)d;
        }
        memcpy(row[0], row[1], sizeof row[0]);
        memcpy(row[1], row[2], sizeof row[1]);
    }
    return row[1][m];
}

bool near_enough(const char *word, size_t distance)
{
    return distance <= 1 + strlen(word) / 5 && distance < strlen(word);
}
