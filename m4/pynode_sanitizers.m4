dnl pynode_sanitizers.m4 - the switches for AddressSanitizer, UBSan and ThreadSanitizer.

dnl PYNODE_SANITIZER(NAME, LONG NAME, FLAGS): adds FLAGS when --enable-NAME is given.
AC_DEFUN([PYNODE_SANITIZER],
[AC_ARG_ENABLE([$1], [AS_HELP_STRING([--enable-$1], [build and test with $2])],
  [], [enable_$1=no])
AS_IF([test "x$enable_$1" = xyes],
  [SANITIZERS="${SANITIZERS:+$SANITIZERS }$1"
   SANITIZE_CFLAGS="$SANITIZE_CFLAGS $3"])])

dnl PYNODE_CHECK_SANITIZERS: substitutes SANITIZE_CFLAGS, for compiling and for linking.
AC_DEFUN([PYNODE_CHECK_SANITIZERS],
[SANITIZERS= SANITIZE_CFLAGS=
PYNODE_SANITIZER([asan], [AddressSanitizer], [-fsanitize=address -fno-omit-frame-pointer])
PYNODE_SANITIZER([ubsan], [UndefinedBehaviorSanitizer],
  [-fsanitize=undefined -fno-sanitize-recover=undefined])
PYNODE_SANITIZER([tsan], [ThreadSanitizer], [-fsanitize=thread -fno-omit-frame-pointer])
AS_IF([test "x$enable_asan$enable_tsan" = xyesyes],
  [AC_MSG_ERROR([--enable-asan and --enable-tsan exclude each other])])
AS_IF([test -n "$SANITIZE_CFLAGS"],
  [AC_MSG_CHECKING([whether $CC links with$SANITIZE_CFLAGS])
   pynode_save_CFLAGS=$CFLAGS
   CFLAGS="$CFLAGS $SANITIZE_CFLAGS"
   AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])],
     [AC_MSG_RESULT([yes])],
     [AC_MSG_RESULT([no])
      AC_MSG_ERROR([$CC has no runtime for: $SANITIZERS (on Debian, for clang: libclang-rt-dev)])])
   CFLAGS=$pynode_save_CFLAGS])
AC_SUBST([SANITIZE_CFLAGS])
])
