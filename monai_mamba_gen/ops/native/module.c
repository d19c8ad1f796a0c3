/* The Python module, within the limited API of Python 3.10: one binary for every later Python, and for every torch. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "scan.h"

#include <string.h>

static const scan_level *const LEVELS[] = {&scan_avx512, &scan_avx2, &scan_base};
enum { LEVEL_COUNT = sizeof LEVELS / sizeof *LEVELS };

static const char *const FIELDS[] = {
#define X(name) #name,
    SCAN_FIELDS(X)
#undef X
};
enum { FIELD_COUNT = sizeof FIELDS / sizeof *FIELDS };

PyDoc_STRVAR(run_doc, "run(fields: bytes) -> int\n\nRun a scan; fields: the int64 values of FIELDS, packed. "
                      "0: done, 1: out of memory, 2: a row of orders is no permutation.");

static PyObject *run(PyObject *self, PyObject *fields) {
    (void)self;
    char *bytes;
    Py_ssize_t size;
    scan_args args;
    int status;
    if (PyBytes_AsStringAndSize(fields, &bytes, &size) < 0) return NULL;
    if (size != (Py_ssize_t)sizeof args) {
        PyErr_Format(PyExc_ValueError, "fields must be %zd bytes, got %zd", (Py_ssize_t)sizeof args, size);
        return NULL;
    }
    memcpy(&args, bytes, sizeof args);
    if (args.level < 0 || args.level >= LEVEL_COUNT || !LEVELS[args.level]->usable()) {
        PyErr_SetString(PyExc_ValueError, "level must be one of those usable here");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    status = scan_run(&args, LEVELS[args.level]);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(status);
}

PyDoc_STRVAR(exponentials_doc, "exponentials(level: int, rounds: int) -> float\n\n"
                               "Compute 2048 * rounds exponentials in the first-level cache, on this thread.");

static PyObject *exponentials(PyObject *self, PyObject *arguments) {
    (void)self;
    int level;
    long long rounds;
    double sum;
    if (!PyArg_ParseTuple(arguments, "iL", &level, &rounds)) return NULL;
    if (level < 0 || level >= LEVEL_COUNT || !LEVELS[level]->usable()) {
        PyErr_SetString(PyExc_ValueError, "level must be one of those usable here");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    sum = LEVELS[level]->exponentials(rounds);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(sum);
}

static PyMethodDef METHODS[] = {{"run", run, METH_O, run_doc},
                                {"exponentials", exponentials, METH_VARARGS, exponentials_doc},
                                {NULL, NULL, 0, NULL}};

static int add_list(PyObject *module, const char *name, PyObject *list) {
    if (!list) return -1;
    int status = PyModule_AddObjectRef(module, name, list);
    Py_DECREF(list);
    return status;
}

static int append_text(PyObject *list, const char *text) {
    PyObject *item = PyUnicode_FromString(text);
    int status = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return status;
}

static int fill(PyObject *module) {
    PyObject *fields = PyList_New(0), *levels = PyList_New(0), *usable = PyList_New(0);
    int status = fields && levels && usable ? 0 : -1;
    for (int i = 0; !status && i < FIELD_COUNT; i++) status = append_text(fields, FIELDS[i]);
    for (int i = 0; !status && i < LEVEL_COUNT; i++) {
        status = append_text(levels, LEVELS[i]->name);
        if (!status && LEVELS[i]->usable()) status = append_text(usable, LEVELS[i]->name);
    }
    if (!status) status = add_list(module, "FIELDS", fields), fields = NULL;
    if (!status) status = add_list(module, "LEVELS", levels), levels = NULL;
    if (!status) status = add_list(module, "USABLE_LEVELS", usable), usable = NULL;
    Py_XDECREF(fields);
    Py_XDECREF(levels);
    Py_XDECREF(usable);
    if (!status) status = PyModule_AddIntConstant(module, "CHUNK", SCAN_CHUNK);
    if (!status) status = PyModule_AddIntConstant(module, "GROUP", SCAN_GROUP);
#ifdef _OPENMP
    if (!status) status = PyModule_AddIntConstant(module, "OPENMP", 1);
#else
    if (!status) status = PyModule_AddIntConstant(module, "OPENMP", 0);
#endif
    return status;
}

static struct PyModuleDef DEFINITION = {
    PyModuleDef_HEAD_INIT, .m_name = "_native", .m_doc = "The selective scan in C.", .m_size = -1, .m_methods = METHODS};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&DEFINITION);
    if (module && fill(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
