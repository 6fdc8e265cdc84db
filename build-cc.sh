# compile one file syntax only
cd /work/main
for f in "$@"; do g++ -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror -I. -I/tmp/p -I/tmp/p/.. $f 2>&1 | grep -E "error|warning" | head -20; done
