/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The floor of benchmarks/filling.py: a loop that maps a file and reads a byte of each stride.
 *
 *   filling_floor FILE SIZE STRIDE (sizes in bytes)
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    if (argc != 4)
        return 64;
    size_t size = strtoull(argv[2], NULL, 10), stride = strtoull(argv[3], NULL, 10);
    int fd = open(argv[1], O_RDWR);
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || memory == MAP_FAILED)
        return 1;
    for (size_t at = 0; at < size; at += stride)
        (void)*(volatile char *)(memory + at);
    return 0;
}
