dnl pynode_python.m4 - the CPython to embed, with the flags that it names itself.
dnl
dnl python3 on PATH, python3-config on PATH and pkg-config's python3-embed can be three
dnl Pythons. So an interpreter is chosen, and everything else is asked of that one.

dnl PYNODE_PYTHON_ASK(VARIABLE, EXPRESSION): the chosen interpreter's own answer.
AC_DEFUN([PYNODE_PYTHON_ASK],
[$1=`"$PYTHON" -c "import os, sys, sysconfig; v = sysconfig.get_config_var; print($2)" 2>/dev/null`])

dnl PYNODE_CHECK_PYTHON: sets and substitutes PYTHON, PYTHON_VERSION, PYTHON_CPPFLAGS,
dnl PYTHON_LIBS; defines PYNODE_PYTHON, the interpreter's absolute path.
AC_DEFUN([PYNODE_CHECK_PYTHON],
[AC_ARG_VAR([PYTHON], [interpreter of the CPython 3.11-3.14 to embed])
AC_ARG_WITH([python],
  [AS_HELP_STRING([--with-python=PATH],
    [interpreter or prefix of the CPython 3.11-3.14 to embed (default: /usr/bin/python3, else python3)])],
  [], [with_python=])
AS_CASE([$with_python],
  [no], [AC_MSG_ERROR([pynode embeds Python and cannot be built without it])],
  [yes|''], [],
  [AS_IF([test -d "$with_python"], [PYTHON=$with_python/bin/python3], [PYTHON=$with_python])])
AS_IF([test -z "$PYTHON"],
  [AS_IF([test -x /usr/bin/python3], [PYTHON=/usr/bin/python3], [PYTHON=python3])])

AC_MSG_CHECKING([for the Python to embed])
pynode_python_wanted=$PYTHON
AS_CASE([$PYTHON], [*/*], [], [PYTHON=`command -v "$PYTHON" 2>/dev/null`])
PYNODE_PYTHON_ASK([PYTHON_VERSION], [sysconfig.get_python_version()])
AS_IF([test -z "$PYTHON_VERSION"],
  [AC_MSG_RESULT([none])
   AC_MSG_ERROR([$pynode_python_wanted is not a Python interpreter that runs; name one by --with-python=PATH])])
PYNODE_PYTHON_ASK([PYTHON], [sys.executable])
AC_MSG_RESULT([$PYTHON ($PYTHON_VERSION)])

PYNODE_PYTHON_ASK([pynode_python_kind], [sys.implementation.name])
AS_IF([test "x$pynode_python_kind" != xcpython],
  [AC_MSG_ERROR([$PYTHON is $pynode_python_kind; pynode embeds CPython])])
AS_CASE([$PYTHON_VERSION],
  [3.11|3.12|3.13|3.14], [],
  [AC_MSG_ERROR([$PYTHON is Python $PYTHON_VERSION; pynode wants 3.11 to 3.14 (--with-python=PATH)])])
PYNODE_PYTHON_ASK([pynode_python_nogil], [v('Py_GIL_DISABLED') or 0])
AS_IF([test "x$pynode_python_nogil" != x0],
  [AC_MSG_ERROR([$PYTHON is a free-threaded build; pynode wants one with the GIL])])

dnl A virtual environment has no config script: look beside the interpreter it was made from.
AC_MSG_CHECKING([for its config script])
PYNODE_PYTHON_ASK([PYTHON_CONFIG],
  [next((c for d in (os.path.dirname(os.path.realpath(sys._base_executable)), v('BINDIR'),
                     os.path.join(sys.base_exec_prefix, 'bin'))
           for c in (os.path.join(d, 'python' + v('LDVERSION') + '-config'),) if os.access(c, os.X_OK)), '')])
AS_IF([test -z "$PYTHON_CONFIG"],
  [AC_MSG_RESULT([none])
   AC_MSG_ERROR([no python$PYTHON_VERSION-config beside $PYTHON: install its development files (on Debian: python3-dev)])])
AC_MSG_RESULT([$PYTHON_CONFIG])
PYTHON_CPPFLAGS=`$PYTHON_CONFIG --includes`
PYTHON_LIBS=`$PYTHON_CONFIG --embed --ldflags`

dnl The loader must find a libpython that lies outside the system's directories.
PYNODE_PYTHON_ASK([pynode_python_libdir], [v('LIBDIR') if v('Py_ENABLE_SHARED') else ''])
AS_CASE([$pynode_python_libdir],
  [''|/lib|/lib/*|/lib64|/usr/lib|/usr/lib/*|/usr/lib64], [],
  [AS_CASE([" $PYTHON_LIBS "],
    [*" -Wl,-rpath,$pynode_python_libdir "*], [],
    [PYTHON_LIBS="$PYTHON_LIBS -Wl,-rpath,$pynode_python_libdir"])])

AC_MSG_CHECKING([whether a program can embed it])
pynode_save_CPPFLAGS=$CPPFLAGS
pynode_save_LIBS=$LIBS
CPPFLAGS="$CPPFLAGS $PYTHON_CPPFLAGS"
LIBS="$PYTHON_LIBS $LIBS"
AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <Python.h>]], [[Py_Initialize();]])],
  [AC_MSG_RESULT([yes])],
  [AC_MSG_RESULT([no])
   AC_MSG_ERROR([Python.h or libpython$PYTHON_VERSION is missing for $PYTHON: install its development files (on Debian: python3-dev); config.log has the compiler's words])])
CPPFLAGS=$pynode_save_CPPFLAGS
LIBS=$pynode_save_LIBS

AC_SUBST([PYTHON_VERSION])
AC_SUBST([PYTHON_CPPFLAGS])
AC_SUBST([PYTHON_LIBS])
AC_DEFINE_UNQUOTED([PYNODE_PYTHON], ["$PYTHON"], [The embedded interpreter's sys.executable.])
AC_DEFINE_UNQUOTED([PYNODE_PYTHON_VERSION], ["$PYTHON_VERSION"], [Its version: major and minor.])
])
